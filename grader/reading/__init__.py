"""Readers for files that nobody vouches for, strict and limited in size: JSON, MATLAB arrays, labels."""
