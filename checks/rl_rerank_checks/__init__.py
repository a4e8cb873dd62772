"""Checks of published systems: did the mechanisms that they rely on behave as specified in a finished run?"""
