"""Attaches to a training loop and says what it does. Keeps tensors on their device; reads no value.

dynamo        keeps torch.compile out of our functions
patches       replaces attributes, and puts them back exactly
autograd      the wrapped `backward`; which parameters a loss reaches
attribution   which optimizer a loss belongs to, and when its gradients were cleared
optimizers    step hooks: nested pairs, closures, optimizers that step inside `backward`
scaling       GradScaler and gradient clipping
losses        the loss functions of torch, one level below `torch.nn.functional`
loaders       DataLoader iterators
models        parameter names, train or eval mode
gaps          which of several validation passes is the validation
origins       what tells them apart where no loader feeds them
passes        which batches are training, which validation, and where an epoch ends
capture       the one object that attaches all of these
"""
