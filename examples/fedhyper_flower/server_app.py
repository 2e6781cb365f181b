"""The server: FedHyper around client selection around FedProx."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedProx
from task import load, loss_and_accuracy, net

from hdet.federated.selection import HeteroSelect, Oort, PowerOfChoice, Random, Selector
from hdet.integrations.flower import FedHyper, SelectClients

app = ServerApp()


def selector(name: str, count: int, seed: int) -> Selector:
    """Return a selector by its name in the run's config."""
    selectors = {
        "random": lambda: Random(seed=seed),
        "power-of-choice": lambda: PowerOfChoice(candidates=2 * count, seed=seed),
        "oort": lambda: Oort(seed=seed),
        "heteroselect": lambda: HeteroSelect(seed=seed),
        # Without the clients' histograms of labels.
        "heteroselect-updates": lambda: HeteroSelect(diversity="updates", seed=seed),
    }
    if name not in selectors:
        raise ValueError(f"selector={name!r} is unknown: take one of {sorted(selectors)}.")
    return selectors[name]()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and evaluate after each on the test examples."""
    run = context.run_config
    count = run["clients-per-round"]
    few = {"min_train_nodes": 1, "min_available_nodes": 1}
    fedprox = FedProx(fraction_evaluate=0.0, proximal_mu=run["proximal-mu"], **few)
    chosen = selector(run["selector"], count, run["seed"])
    selecting = SelectClients(fedprox, chosen, count, query_timeout=run["timeout"])
    strategy = FedHyper(
        selecting,
        mode=run["mode"],
        beta=run["lr"],
        gamma_alpha=run["gamma-alpha"],
        gamma_beta=run["gamma-beta"],
    )

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = net()
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = loss_and_accuracy(model, load(run["data"])[1])
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net(run["seed"]).state_dict()),
        num_rounds=run["rounds"],
        timeout=run["timeout"],
        evaluate_fn=evaluate,
    )
