"""What `hdet doctor` looks at before a run is started, on all of its processes.

    company     the processes, and how they tell each other what they have found
    machine     versions, devices, settings, and a test of the all-reduce
    own_run     the user's own Explorer: what is supported, and what it costs
    diagnosis   all of it in order, as findings

The rules themselves are those of the library: it is the user's Explorer that is made, with all
of its checks.
"""
