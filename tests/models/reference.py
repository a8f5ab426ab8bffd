"""The model again in one plain function per part, without any of the shortcuts, to compare numbers with."""

import torch


def rms_norm(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x_THd, theta):
    length, _, width = x_THd.shape
    out = torch.empty_like(x_THd)
    for t in range(length):
        for i in range(width // 2):
            angle = torch.tensor(t * theta ** (-2 * i / width))
            a, b = x_THd[t, :, i], x_THd[t, :, i + width // 2]
            out[t, :, i] = a * angle.cos() - b * angle.sin()
            out[t, :, i + width // 2] = b * angle.cos() + a * angle.sin()
    return out


def attention(p, x_TD, spec):
    length = len(x_TD)
    q = rotate((x_TD @ p["wq.weight"].T).view(length, spec.num_heads, spec.head_dim), spec.rope_theta)
    k = rotate((x_TD @ p["wk.weight"].T).view(length, spec.num_kv_heads, spec.head_dim), spec.rope_theta)
    v = (x_TD @ p["wv.weight"].T).view(length, spec.num_kv_heads, spec.head_dim)
    heads = []
    for head in range(spec.num_heads):
        shared = head // (spec.num_heads // spec.num_kv_heads)
        scores = q[:, head] @ k[:, shared].T / spec.head_dim**0.5
        scores = scores + torch.full((length, length), float("-inf")).triu(1)
        heads.append(scores.softmax(-1) @ v[:, shared])
    return torch.cat(heads, -1) @ p["wo.weight"].T


def swiglu(x, gate_up_DF, down_FD):
    gate, up = (x @ gate_up_DF).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up) @ down_FD


def scores_of(logits_E, spec):
    """(scores, probabilities that sum to one) of one token."""
    if spec.gate_norm:
        logits_E = spec.gate_norm * (logits_E - logits_E.mean()) / logits_E.std()
    if spec.router_score == "softmax":
        return logits_E.softmax(-1), logits_E.softmax(-1)
    return logits_E.sigmoid(), logits_E.sigmoid() / logits_E.sigmoid().sum()


def moe(p, x_ND, spec):
    """(output, balance loss before any coefficient, eq. 4)."""
    rows, probs = [], []
    for x in x_ND:
        g, prob = scores_of(p["router.weight"] @ x, spec)
        ranked = g + p["router.bias"] if spec.router_bias else g
        best = sorted(range(spec.num_experts), key=lambda e: (-float(ranked[e].detach()), e))[: spec.top_k]
        total = sum(g[e] for e in best) if spec.renormalize else 1.0
        y = sum(g[e] / total * swiglu(x, p[f"experts.{e}.gate_up"], p[f"experts.{e}.down"]) for e in best)
        rows.append(spec.route_scale * y)
        if spec.shared_ffn_size:
            rows[-1] = rows[-1] + swiglu(x, p["shared.gate_up.weight"].T, p["shared.down.weight"].T)
        probs.append(prob)
    return torch.stack(rows), ((1 / spec.num_experts - torch.stack(probs).mean(0)) ** 2).sum()


def under(params, prefix):
    return {name[len(prefix) :]: value for name, value in params.items() if name.startswith(prefix)}


def forward(params, spec, tokens_BT):
    """(logits [B, T, V], balance loss summed over the layers)."""
    x = params["embed.weight"][tokens_BT]
    aux_loss = torch.zeros(())
    for layer in range(spec.num_layers):
        p = under(params, f"layers.{layer}.")
        normed = rms_norm(x, p["attn_norm.weight"], spec.norm_eps)
        x = x + torch.stack([attention(under(p, "attn."), row, spec) for row in normed])
        normed = rms_norm(x, p["ffn_norm.weight"], spec.norm_eps)
        if spec.is_moe_layer(layer):
            y, aux = moe(under(p, "moe."), normed.flatten(0, 1), spec)
            x, aux_loss = x + y.view_as(x), aux_loss + aux
        else:
            x = x + swiglu(normed, p["ffn.gate_up.weight"].T, p["ffn.down.weight"].T)
    head = params["embed.weight" if spec.tied_head else "head.weight"]
    return rms_norm(x, params["norm.weight"], spec.norm_eps) @ head.T, aux_loss


def loss(params, spec, tokens_BT, targets_BT, coef):
    logits, aux_loss = forward(params, spec, tokens_BT)
    ce_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())
    return ce_loss + coef * aux_loss
