"""The whole job: train every variant with every seed; write, merge and re-evaluate run folders."""
