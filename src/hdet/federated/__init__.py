"""Learning rates and client selection for federated training, on flat vectors.

The rules communicate nothing and know no framework: give them updates and reports, take
rates and ids. `hdet.integrations.flower` puts them to work on Flower.
"""

from .baselines import Decay as Decay
from .baselines import FedExP as FedExP
from .client_rate import ClientLocalRate as ClientLocalRate
from .rates import GlobalRate as GlobalRate
from .rates import ServerLocalRate as ServerLocalRate
