"""Damage, planted in each kind of structure that a backend's check() promises to verify."""
