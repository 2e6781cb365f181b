"""What the studies share: units, run folders, ranks, records, statistics, plots and pages."""
