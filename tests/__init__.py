"""Tests of bbvi: they mirror the package; tables of cases stand in `cases.py`."""
