"""`--tune`: which trials are run, their heads, and the learning rate that they choose."""
