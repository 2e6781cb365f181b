"""The client: local epochs of SGD at the message's rate, and answers to queries."""

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from task import Examples, load, loss_and_accuracy, net, partition
from torch.nn import functional as F

from hdet.federated.selection import ClientReport
from hdet.integrations.flower import answer_query, local_training, reply

app = ClientApp()


def examples_of(context: Context) -> Examples:
    """Return this client's examples."""
    node, run = context.node_config, context.run_config
    parts = partition(run["data"], node["num-partitions"], run["dirichlet"], run["seed"])
    (images, labels), _ = load(run["data"])
    mine = parts[node["partition-id"]]
    return images[mine], labels[mine]


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the message's model, and reply with the new one."""
    run, at = context.run_config, message.content["config"]["server-round"]
    images, labels = examples_of(context)
    seed = (run["seed"] * 10_007 + at) * 10_007 + context.node_config["partition-id"]
    source = torch.Generator().manual_seed(seed)
    batches = [
        batch
        for _ in range(run["local-epochs"])
        for batch in torch.randperm(len(labels), generator=source).split(run["batch-size"])
    ]
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # the message has the rate
    local = local_training(message, model, optimizer, steps=len(batches))
    for batch in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        (loss + local.proximal()).backward()
        local.step(loss)
    # A histogram of labels tells the server about the data: only for a selector that uses it.
    counts = torch.bincount(labels, minlength=10).tolist()
    asked = run["selector"] == "heteroselect"
    report = local.report(num_examples=len(labels), label_counts=counts if asked else None)
    return reply(message, context, model, report, {"local-rate": local.rate})


@app.query("selection")
def query(message: Message, context: Context) -> Message:
    """Answer the selector: with this client's partition, or the loss of a model here."""

    def probe(weights: dict, batches: int | None) -> ClientReport:
        images, labels = examples_of(context)
        some = torch.arange(len(labels))
        if batches is not None:
            # In a random order, since the examples are sorted by class.
            source = torch.Generator().manual_seed(context.run_config["seed"])
            some = torch.randperm(len(labels), generator=source)
            some = some[: batches * context.run_config["batch-size"]]
        model = net()
        model.load_state_dict(weights)
        loss, _ = loss_and_accuracy(model, (images[some], labels[some]))
        return ClientReport(loss=loss, num_examples=len(labels))

    return answer_query(message, context, probe)
