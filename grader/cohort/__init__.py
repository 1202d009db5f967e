"""Several submissions: graded in parallel, compared with one another and with an instructor's runs."""
