"""A system of one's own, as docs/systems.md explains it: the decoder layers share the memory of one."""

from torch import nn

from djinn_checks import System


class LayerByLayer(System):
    name = "layer-by-layer"

    def open(self):
        module = self.model.skeleton()  # a transformers module: parameters on `meta`, buffers real
        self.moved_bytes = 0
        self.slot = {}  # the memory of one layer, by the names of the weights in it
        for name, _ in list(module.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            place = nn.Parameter(self.model.weights[name].to(self.device), requires_grad=False)
            if name.startswith("model.layers."):
                place = self.slot.setdefault(name.split(".", 3)[3], place)
            module.get_submodule(owner).register_parameter(leaf, place)
        if module.config.tie_word_embeddings:
            module.lm_head.weight = module.model.embed_tokens.weight
        for number, layer in enumerate(module.model.layers):
            weights = {key: self.model.weights[f"model.layers.{number}.{key}"].cpu() for key in self.slot}
            layer.register_forward_pre_hook(lambda *_, weights=weights: self._load(weights))
        return module.to(self.device)  # called like any causal LM of transformers

    def _load(self, weights):
        for key, weight in weights.items():
            self.slot[key].data.copy_(weight)
            self.moved_bytes += weight.nbytes

    def claimed_bytes(self):  # optional: what it says it has moved; held against the evidence
        return self.moved_bytes

    def close(self):
        self.slot = {}
