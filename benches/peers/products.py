"""Times PyTorch's matrix products alone: those of one rank, on one thread.

    products.py '[[rows, inputs, outputs, times, has_weight], ...]'

For each line on standard input it makes every product once, first all of the forward, then all input gradients, then all
weight gradients, and writes a line: a list of [F, I, W] in seconds of this thread's processor time, one for each product.
"""

import json
import sys
import time

import torch


def tensors(rows: int, inputs: int, outputs: int, times: int) -> tuple[torch.Tensor, ...]:
    x, gy, w = (torch.rand(times, *shape) - 0.5 for shape in ((rows, inputs), (rows, outputs), (outputs, inputs)))
    return tuple((t if times > 1 else t[0]).contiguous() for t in (x, gy, w, gy.clone(), x.clone(), w.clone()))


def product(phase: int, x, gy, w, y, gx, gw) -> None:
    multiply = torch.bmm if x.dim() == 3 else torch.mm
    if phase == 0:
        multiply(x, w.mT, out=y)
    elif phase == 1:
        multiply(gy, w, out=gx)
    elif x.dim() == 3:
        torch.bmm(gy.mT, x, out=gw)
    else:
        gw.addmm_(gy.mT, x)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    products = [tensors(*sizes) for *sizes, _ in json.loads(sys.argv[1])]
    for _ in sys.stdin:
        seconds = [[0.0] * 3 for _ in products]
        for phase in range(3):
            for of, found in zip(products, seconds):
                begun = time.thread_time_ns()
                product(phase, *of)
                found[phase] = 1e-9 * (time.thread_time_ns() - begun)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
