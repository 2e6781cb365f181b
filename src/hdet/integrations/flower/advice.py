"""What a client app lacks, with the lines to add; a wrapper logs it once a run."""

TRAIN = """Lines for the client app's train function:
    from hdet.integrations.flower import local_training, reply
    local = local_training(message, model, optimizer, steps=len(batches))  # before the loop
    local.step(loss)                                    # in it, in place of optimizer.step()
    return reply(message, context, model, local.report(num_examples=len(data)))"""
LOSS = """Line for the client app's train function, if it makes its own reply:
    MetricRecord({..., "train-loss": loss})"""
LABEL_COUNTS = """Lines for the client app's train function:
    counts = torch.bincount(labels, minlength=classes).tolist()
    local.report(num_examples=len(data), label_counts=counts)  # or MetricRecord({...,
                                                               #     "label-counts": counts})"""
QUERY = """Lines for the client app:
    from hdet.integrations.flower import answer_query
    @app.query("selection")
    def query(message: Message, context: Context) -> Message:
        # probe(weights, batches) -> ClientReport(loss=..., num_examples=...)
        return answer_query(message, context, probe)"""
