"""Which clients train in a round: five selectors with one interface.

Each works on client statistics alone: it never talks to a client, and depends on no framework.
A round is

    asked = selector.candidates(clients)                   # whose loss to measure; may be empty
    chosen = selector.select(round, clients, count, probes)
    selector.feedback(round, {client: ClientReport(...)})  # for those whose reply came

`selector` has the rules that all share; each method's file names its source.
"""

from .heteroselect import HeteroSelect as HeteroSelect
from .heteroselect_v2 import HeteroSelectV2 as HeteroSelectV2
from .oort import Oort as Oort
from .power_of_choice import PowerOfChoice as PowerOfChoice
from .report import ClientReport as ClientReport
from .selector import Selector as Selector
from .uniform import Random as Random
