"""What the library does, in a minute or two on any machine: `hdet demo`.

    learning_rate   Explorer beside plain DDP, from rates that are right and far off
    federated       FedHyper and client selection beside FedAvg
    bilevel         MAID beside grid search

Each shows its runs while they go on, and returns a `Page` for `hdet.report` to write.
"""
