"""`hdet bench robustness`: does a run end well wherever its learning rate starts?"""
