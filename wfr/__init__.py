"""WFR: asynchronous actor-learner reinforcement learning of workflow directors. The library.

Everything that is true of the problem lives here; no process, accelerator or network engine does.
"""
