"""Attaches to a training loop and says what it does. Keeps tensors on their device; reads no value.

capture       the one object that attaches all of these
hooks         what torch calls on every step, with the ordinary way written out
lane          what an ordinary step awaits, and when it is left
optimizers    step hooks: nested pairs, closures, optimizers that step inside `backward`
surround      our hooks as the innermost around an update
idle          steps that find no gradient, and change nothing
steps         what a step applied, whether it was skipped, what is taken of it
roster        the optimizers that step, by label; where one training follows another
tracked       what is known of one optimizer
beginning     the state in which a training begins, by which another one of the same model is told
unannounced   steps that no hook announces: inside `backward`, or by hand
attribution   which optimizer a loss belongs to
share         what backward gave to the gradients of one optimizer, and when they were cleared
autograd      the wrapped `backward`; which parameters a loss reaches
scaling       the wrapped GradScaler and gradient clipping
clipping      whose gradients are clipped or unscaled, and the norm that they had before
losses        the loss functions of torch, one level below `torch.nn.functional`
criteria      which calls of them are training, which validation
calls         which of those in training a backward differentiates
looks         on which calls predictions are looked at, and labels counted
objective     whether backward is called on what they returned, so that little of it need be read
said          what those that it does have said since the last step
loaders       DataLoader iterators
identity      tells loaders and datasets apart, which are not held
passes        which batches are training, which validation, and where an epoch ends
followed      the pass whose end is the epoch's: which it is, and whether the loop is through with it
validating    what has been validated since training, by each loss function
gaps          which of several validation passes is the validation
origins       what tells them apart where no loader feeds them
feeding       which loaders feed training, and with how many of the batches that they have in hand
unseen        whether evaluations go by of which no validation is seen
weighing      what training makes of losses one by one
summing       whether backward is called on a sum over samples
models        parameter names, train or eval mode
unowned       parameters that no optimizer has
mode          whether training goes on in eval mode
threads       which threads of the process are at work
recorder      writes what is known at the end of a step into a ledger's row
controlling   what is told to whoever judges steps and may change them
dynamo        keeps torch.compile out of our functions
patches       replaces attributes, and puts them back exactly
"""
