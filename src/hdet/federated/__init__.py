"""Learning rates and client selection for federated training, on flat vectors.

The rules neither communicate nor depend on a framework: they take updates and reports, and
return rates and ids. `hdet.integrations.flower` applies them on Flower, and `rounds` runs whole
federated rounds within one process.
"""

from . import compression as compression
from . import rounds as rounds
from . import selection as selection
from . import server_optimizers as server_optimizers
from .baselines import Decay as Decay
from .baselines import FedExP as FedExP
from .client_rate import ClientLocalRate as ClientLocalRate
from .delta_sgd import DeltaSGD as DeltaSGD
from .hypergradient import Hypergradient as Hypergradient
from .local_training import LocalTraining as LocalTraining
from .rates import GlobalRate as GlobalRate
from .rates import ServerLocalRate as ServerLocalRate
from .selection import ClientReport as ClientReport
from .selection import HeteroSelect as HeteroSelect
from .selection import HeteroSelectV2 as HeteroSelectV2
from .selection import Oort as Oort
from .selection import PowerOfChoice as PowerOfChoice
from .selection import Random as Random
