"""Recomputes loss and gradients of a dumped step with NumPy, differentiated by autograd: recompute.py FILE"""
import json, math, sys
import autograd.numpy as np
from autograd import grad
raw = open(sys.argv[1], "rb").read()
size = int.from_bytes(raw[:8], "little")
head = json.loads(raw[8 : 8 + size])
heads, kinds = int(head.pop("__metadata__").get("heads", 0)), {"F32": "<f4", "U32": "<u4", "I64": "<i8"}
dump = {k: np.frombuffer(raw, kinds[v["dtype"]], math.prod(v["shape"]), 8 + size + v["data_offsets"][0]).reshape(v["shape"]) for k, v in head.items()}
part = lambda prefix: {k[len(prefix) :]: v.astype("f8") for k, v in dump.items() if k.startswith(prefix)}
linear = lambda p, n, x: x @ p[n + ".weight"].T + p.get(n + ".bias", 0.0)
centre = lambda x: x - np.mean(x, -1, keepdims=True)
norm = lambda p, n, x: centre(x) / np.sqrt(np.mean(centre(x) ** 2, -1, keepdims=True) + 1e-5) * p[n + ".weight"] + p[n + ".bias"]
gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
def log_softmax(x):
    x = x - np.max(x, -1, keepdims=True)
    return x - np.log(np.sum(np.exp(x), -1, keepdims=True))
def logits(p, x):
    if "layers.0.weight" in p:
        for i in range(7): x = np.maximum(linear(p, f"layers.{i}", x), 0)
        return linear(p, "layers.7", x)
    (b, t), future = x.shape, np.triu(np.full(x.shape[1:] * 2, -1e30), 1)
    x = p["embedding.token.weight"][x] + p["embedding.position.weight"][:t]
    for n in (f"blocks.{i}." for i in range(sum(k.endswith("ln1.bias") for k in p))):
        q, k, v = (np.transpose(np.reshape(a, (b, t, heads, -1)), (0, 2, 1, 3)) for a in np.split(linear(p, n + "attention.qkv", norm(p, n + "ln1", x)), 3, -1))
        mixed = np.exp(log_softmax(q @ np.swapaxes(k, 2, 3) / math.sqrt(q.shape[-1]) + future)) @ v
        x = x + linear(p, n + "attention.proj", np.reshape(np.transpose(mixed, (0, 2, 1, 3)), (b, t, -1)))
        x = x + linear(p, n + "mlp.proj", gelu(linear(p, n + "mlp.fc", norm(p, n + "ln2", x))))
    return linear(p, "head.linear", norm(p, "head.ln", x))
targets, before, ours = dump["targets"].ravel(), part("before."), part("grad.")
loss = lambda p: -np.mean(np.reshape(log_softmax(logits(p, dump["inputs"])), (targets.size, -1))[np.arange(targets.size), targets])
theirs, value = grad(loss)(before), loss(before)
whole = math.sqrt(sum(np.sum(g**2) for g in theirs.values()))
worst = max((np.linalg.norm(ours[n] - g) / max(np.linalg.norm(g), 1e-3 * whole), n) for n, g in theirs.items())
print(f"loss {float(dump['loss']):.6f} ours, {value:.6f} theirs; worst of {len(theirs)} gradients {worst[0]:.1e} ({worst[1]}), at most 1e-4")
sys.exit(not (worst[0] <= 1e-4 and abs(value - float(dump["loss"])) <= 1e-5 * abs(value) and theirs.keys() == ours.keys()))
