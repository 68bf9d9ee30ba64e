"""Turns tensors into numbers, and numbers into events. The only room that reads a tensor's value.

seclusion   keeps what is computed for us from the user's modes
scalars     single values: at once on the CPU, one transfer for many on a device
elements    the elements of any gradient, as one tensor and in pieces
moments     count, mean, squared deviations and maximum, which add up
gradients   mean, variance, norm and largest magnitude of gradients
noise       the gradient noise scale, where gradients are accumulated
updates     how far a step moved each layer
criteria    what a call of a loss function says, on one scale
chance      the loss at chance, from the labels
layers      which layers are shown one by one
meter       what Trimtab costs, as it measures itself
spacing     how often one costly thing is done
pace        ... and all of them, within the overhead budget
sampler     takes statistics for the step that is under way
ledger      the steps of one optimizer, folded into records
readings    what rules judge of a step
records     what a record says about the steps it stands for
passes      sums over an epoch and over a validation pass
books       the ledgers of a run and the events that they make, in order
"""
