"""Studies: methods x seeds on one data set."""
