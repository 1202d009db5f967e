"""What several test modules build. Empty, so that the tests of the grader load nothing that needs torch."""
