"""Sine waves predicted by LSTM cells, trained by LBFGS with a closure, in double precision."""
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm1 = nn.LSTMCell(1, 12)
        self.lstm2 = nn.LSTMCell(12, 12)
        self.linear = nn.Linear(12, 1)

    def forward(self, input, future=0):
        outputs = []
        h_t = torch.zeros(input.size(0), 12, dtype=torch.double)
        c_t, h_t2, c_t2 = h_t.clone(), h_t.clone(), h_t.clone()
        output = None
        for input_t in list(input.split(1, dim=1)) + [None] * future:
            h_t, c_t = self.lstm1(output if input_t is None else input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        return torch.cat(outputs, dim=1)


if __name__ == "__main__":
    np.random.seed(0)
    torch.manual_seed(0)
    shift = np.random.randint(-80, 80, 10).reshape(10, 1)
    data = np.sin((np.arange(40) + shift) / 5.0)
    input = torch.from_numpy(data[3:, :-1])
    target = torch.from_numpy(data[3:, 1:])
    test_input = torch.from_numpy(data[:3, :-1])
    test_target = torch.from_numpy(data[:3, 1:])

    seq = Sequence()
    seq.double()
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=6)
    evaluations, first_losses, test_losses, evaluation_counts = [], [], [], []
    for i in range(5):
        print("STEP: ", i)

        def closure():
            optimizer.zero_grad()
            out = seq(input)
            loss = criterion(out, target)
            evaluations.append(loss.item())
            loss.backward()
            return loss

        before = len(evaluations)
        first_losses.append(optimizer.step(closure).item())
        evaluation_counts.append(len(evaluations) - before)
        print("loss:", first_losses[-1])
        with torch.no_grad():
            future = 10
            pred = seq(test_input, future=future)
            loss = criterion(pred[:, :-future], test_target)
            test_losses.append(loss.item())
            print("test loss:", loss.item())
