"""Tests, intervals and distributions. Nothing here knows what is compared."""
