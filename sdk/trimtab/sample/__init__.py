"""Turns tensors into numbers, and numbers into events. The only room that reads a tensor's value.

seclusion   keeps what is computed for us from the user's modes
scalars     single values: at once on the CPU, one transfer for many on a device
gradients   mean, variance, norm and largest magnitude of gradients
noise       the gradient noise scale, where gradients are accumulated
updates     how far a step moved each layer
chance      the loss at chance, from the labels
pace        how often what is costly is done, within the overhead budget
sampler     takes statistics for the step that is under way
ledger      the steps of one optimizer, folded into records
passes      sums over an epoch and over a validation pass
books       the ledgers of a run and the events that they make, in order
"""
