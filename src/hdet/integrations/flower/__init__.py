"""hdet on Flower: learning rates and client selection around any Flower strategy.

Strategies wrap strategies, so that one expression describes a run:

    strategy = FedHyper(SelectClients(FedProx(proximal_mu=0.1), HeteroSelect(), count=10))
    strategy.start(grid, initial_arrays, num_rounds=50, train_config=ConfigRecord({"lr": 0.01}))

    FedHyper        global rate alpha and local rate beta follow the hypergradient
    SelectClients   a selector of `hdet.federated.selection` chooses the clients
    FedExP, Decay   baselines for FedHyper

All but `SelectClients` scale the *step* of the wrapped strategy, w + alpha (wrapped - w), so
they work with FedAvgM and FedAdam as with FedAvg; if alpha is 1, the result is the wrapped
strategy's, bit for bit. On the clients `local_training` reads a message, and `reply` and
`answer_query` answer. The keys of the messages are in `records`; which replies are used, in
`replies`; how entries that are no weights are treated, in `model`.
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
