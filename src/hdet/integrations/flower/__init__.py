"""hdet on Flower: learning rates and client selection around any Flower strategy.

The idea: strategies wrap strategies, so that a sentence says what a run does:

    strategy = FedHyper(SelectClients(FedProx(proximal_mu=0.1), HeteroSelect(), count=10))
    strategy.start(grid, initial_arrays, num_rounds=50, train_config=ConfigRecord({"lr": 0.01}))

    FedHyper        global rate alpha and local rate beta follow the hypergradient
    SelectClients   a selector of `hdet.federated.selection` says who trains
    FedExP, Decay   to compare with

All but `SelectClients` scale the *step* of the strategy within, w + alpha (inner - w), so they
go over FedAvgM and FedAdam as over FedAvg; where alpha is 1, the strategy within has the last
word, bit for bit. On the clients `local_training` reads a message, and `reply` and
`answer_query` answer. What travels under which key: `records`; which replies are used:
`replies`; what becomes of entries that are no weights: `model`.

Source: Wang, Wang, Li, "FedHyper", ICLR 2024, arXiv:2310.03156; equations in
`hdet.federated.rates`. Rates come from the replies themselves: the noise of a strategy within
that gives differential privacy does not cover them.
"""

try:
    import flwr.serverapp.strategy  # noqa: F401
except ImportError as error:
    raise ImportError(
        'hdet.integrations.flower needs Flower 1.41 or newer: pip install "hdet[flower]"'
    ) from error

from .baselines import Decay as Decay
from .baselines import FedExP as FedExP
from .client import answer_query as answer_query
from .client import local_training as local_training
from .client import reply as reply
from .fedhyper import FedHyper as FedHyper
from .select_clients import SelectClients as SelectClients
