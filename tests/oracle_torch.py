"""The second oracle: torch.nn.RNN, LSTM and GRU with autograd, in the form of ``reference.run``."""

import numpy as np
import torch
from reference import Results
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

torch.set_num_threads(1)

MODULES = {
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
}


def run(cell, parameters, x_list, initial_state, dy_list, dstate, num_layers, bidirectional, dtype="float64"):
    """Forward, then backward from gradients of the outputs and of the final states."""

    def tensors(arrays, requires_grad=False):
        return [torch.from_numpy(np.array(a, dtype)).requires_grad_(requires_grad) for a in arrays]

    module_class, options = MODULES[cell]
    input_size, hidden_size = parameters["weight_ih_l0"].shape[1], parameters["weight_hh_l0"].shape[1]
    module = module_class(
        input_size,
        hidden_size,
        num_layers=num_layers,
        bias="bias_ih_l0" in parameters,
        bidirectional=bidirectional,
        batch_first=True,
        dtype=getattr(torch, dtype),
        **options,
    )
    module.load_state_dict(dict(zip(parameters, tensors(parameters.values()), strict=True)))

    x, dy = tensors(x_list, requires_grad=True), tensors(dy_list)
    initial = tensors(initial_state if cell == "lstm" else [initial_state], requires_grad=True)
    lengths = [len(row) for row in x]
    padded = pad_sequence(x, batch_first=True)
    if min(lengths) < max(lengths):
        padded = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
    y, state = module(padded, tuple(initial) if cell == "lstm" else initial[0])
    if min(lengths) < max(lengths):
        y, _ = pad_packed_sequence(y, batch_first=True)
    outputs = [y[row, :length] for row, length in enumerate(lengths)]
    final = list(state) if cell == "lstm" else [state]

    torch.autograd.backward(outputs + final, dy + tensors(dstate if cell == "lstm" else [dstate]))
    arrays = [tensor.detach().numpy() for tensor in final]
    dinitial = [tensor.grad.numpy() for tensor in initial]
    return Results(
        outputs=[tensor.detach().numpy() for tensor in outputs],
        state=tuple(arrays) if cell == "lstm" else arrays[0],
        dx=[tensor.grad.numpy() for tensor in x],
        dinitial_state=tuple(dinitial) if cell == "lstm" else dinitial[0],
        gradients={name: parameter.grad.numpy() for name, parameter in module.named_parameters()},
    )
