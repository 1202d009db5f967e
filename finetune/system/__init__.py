"""What the machine gives: cores and memory, atomic files and locks, signals, downloads, the console."""
