"""What runs us, and what that implies; knows no backend."""
