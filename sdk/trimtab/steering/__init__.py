"""The one arrow that leads back, from what is judged to what the run does: wires rules, policies and actuators.

assembly     builds all of this from a run's settings
controller   closes the loop, step by step
judging      hands the judge what was sampled, in its order
evidence     what is known of a run besides which rules fire
forgetting   what was seen and is none any more; `wariness` is for gradients, after they have ruined the weights
telling      an alert at each edge of an episode, and where rules, scales and budgets stand in every record
answering    what rules, alerts or a replay want done, as decisions; `elsewhere` keeps what other threads bring
execution    carries each decision out at its moment, and records what became of it; `noting` notes every change
keeping      which states are kept to go back to; `best` is the one at the best validation
membership   whether this rank is the only one, one of several, or can only watch
ranks        rank 0 decides and all carry it out; `agreement` is how they talk
absent       what was asked of optimizers that have left, for when they come back
control      what a person asks for, in files; `orders` takes it up
standing     where scales, budgets, cooldowns and episodes stand; `state` writes that down for a run that is resumed
"""
