"""`python -m benchmarks robustness`: does a run end well wherever its learning rate starts?"""
