"""The algorithms as DomainBed writes them: one network, a list of minibatches, one update.

Written after Gulrajani and Lopez-Paz 2020 (arXiv 2007.01434) and the code released with it, loop by
loop and call by call, without anything of generality: the other side of our benchmarks, and what
our batched training is tested against. Where DomainBed draws random numbers (Mixup), they can be
handed in. Two algorithms differ from it: IGA takes the head's gradients only, as ours does, and
Fishr finds per-sample gradients with torch.func where DomainBed has BackPACK.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import autograd, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812


class ERM(nn.Module):
    def __init__(self, featurizer, classifier, domains, hparams):
        super().__init__()
        self.featurizer, self.classifier = featurizer, classifier
        self.network = nn.Sequential(featurizer, classifier)
        self.domains, self.hparams, self.update_count = domains, hparams, 0
        self.new_optimizer()

    def new_optimizer(self):
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=self.hparams["lr"],
            weight_decay=self.hparams.get("weight_decay", 0.0),
        )

    def predict(self, x):
        return self.network(x)

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_count += 1
        return {"loss": loss.item()}

    def update(self, minibatches):
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        return self.step(F.cross_entropy(self.predict(all_x), all_y))

    def annealed(self, weight, before):
        """The penalty's weight now; a new optimiser when it changes."""
        if self.update_count == self.hparams["anneal"]:
            self.new_optimizer()
        return weight if self.update_count >= self.hparams["anneal"] else before


class IRM(ERM):
    @staticmethod
    def irm_penalty(logits, y):
        scale = torch.tensor(1.0).requires_grad_()
        loss_1 = F.cross_entropy(logits[::2] * scale, y[::2])
        loss_2 = F.cross_entropy(logits[1::2] * scale, y[1::2])
        grad_1 = autograd.grad(loss_1, [scale], create_graph=True)[0]
        grad_2 = autograd.grad(loss_2, [scale], create_graph=True)[0]
        return torch.sum(grad_1 * grad_2)

    def update(self, minibatches):
        weight = self.annealed(self.hparams["weight"], 1.0)
        nll, penalty = 0.0, 0.0
        all_logits = self.network(torch.cat([x for x, y in minibatches]))
        start = 0
        for x, y in minibatches:
            logits = all_logits[start : start + x.shape[0]]
            start += x.shape[0]
            nll += F.cross_entropy(logits, y)
            penalty += self.irm_penalty(logits, y)
        nll /= len(minibatches)
        penalty /= len(minibatches)
        return self.step(nll + weight * penalty)


class VREx(ERM):
    def update(self, minibatches):
        weight = self.annealed(self.hparams["weight"], 1.0)
        all_logits = self.network(torch.cat([x for x, y in minibatches]))
        start, losses = 0, []
        for x, y in minibatches:
            losses.append(F.cross_entropy(all_logits[start : start + x.shape[0]], y))
            start += x.shape[0]
        losses = torch.stack(losses)
        mean = losses.mean()
        penalty = ((losses - mean) ** 2).mean()
        return self.step(mean + weight * penalty)


class GroupDRO(ERM):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.q = torch.ones(self.domains)

    def update(self, minibatches):
        losses = torch.zeros(len(minibatches))
        for m, (x, y) in enumerate(minibatches):
            losses[m] = F.cross_entropy(self.predict(x), y)
            self.q[m] *= (self.hparams["eta"] * losses[m].data).exp()
        self.q /= self.q.sum()
        return self.step(torch.dot(losses, self.q))


class AbstractMMD(ERM):
    @staticmethod
    def distance(x, y):
        raise NotImplementedError

    def update(self, minibatches):
        objective, penalty, count = 0.0, 0.0, len(minibatches)
        features = [self.featurizer(x) for x, _ in minibatches]
        logits = [self.classifier(f) for f in features]
        for i in range(count):
            objective += F.cross_entropy(logits[i], minibatches[i][1])
            for j in range(i + 1, count):
                penalty += self.distance(features[i], features[j])
        objective /= count
        if count > 1:
            penalty /= count * (count - 1) / 2
        return self.step(objective + self.hparams["weight"] * penalty)


class CORAL(AbstractMMD):
    @staticmethod
    def distance(x, y):
        mean_x, mean_y = x.mean(0, keepdim=True), y.mean(0, keepdim=True)
        cent_x, cent_y = x - mean_x, y - mean_y
        cova_x = (cent_x.t() @ cent_x) / (len(x) - 1)
        cova_y = (cent_y.t() @ cent_y) / (len(y) - 1)
        return (mean_x - mean_y).pow(2).mean() + (cova_x - cova_y).pow(2).mean()


class MMD(AbstractMMD):
    @staticmethod
    def my_cdist(x1, x2):
        x1_norm = x1.pow(2).sum(dim=-1, keepdim=True)
        x2_norm = x2.pow(2).sum(dim=-1, keepdim=True)
        res = torch.addmm(x2_norm.transpose(-2, -1), x1, x2.transpose(-2, -1), alpha=-2)
        return res.add_(x1_norm).clamp_min_(1e-30)

    @classmethod
    def kernel(cls, x, y):
        squared = cls.my_cdist(x, y)
        result = torch.zeros_like(squared)
        for gamma in (0.001, 0.01, 0.1, 1, 10, 100, 1000):
            result.add_(torch.exp(squared.mul(-gamma)))
        return result

    @classmethod
    def distance(cls, x, y):
        xx, yy, xy = cls.kernel(x, x), cls.kernel(y, y), cls.kernel(x, y)
        return xx.mean() + yy.mean() - 2 * xy.mean()


class Mixup(ERM):
    def draw(self):
        """This step's ring of domains and shares."""
        if "draws" in self.hparams:
            draws = self.hparams["draws"]
            return draws["order"][self.update_count], draws["shares"][self.update_count]
        alpha = self.hparams["alpha"]
        return torch.randperm(self.domains).tolist(), np.random.beta(alpha, alpha, self.domains)

    def update(self, minibatches):
        order, shares = self.draw()
        objective, count = 0.0, len(minibatches)
        for d in range(count):
            (xi, yi), (xj, yj) = minibatches[order[d]], minibatches[order[(d + 1) % count]]
            lam = float(shares[d])
            predictions = self.predict(lam * xi + (1 - lam) * xj)
            objective += lam * F.cross_entropy(predictions, yi)
            objective += (1 - lam) * F.cross_entropy(predictions, yj)
        return self.step(objective / count)


class SD(ERM):
    def update(self, minibatches):
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        all_p = self.predict(all_x)
        loss = F.cross_entropy(all_p, all_y)
        penalty = (all_p**2).mean()
        return self.step(loss + self.hparams["weight"] * penalty)


class Fishr(ERM):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.averages = [0.0] * self.domains

    def sample_loss(self, parameters, feature, y):
        return F.cross_entropy(functional_call(self.classifier, parameters, (feature,)), y)

    def update(self, minibatches):
        weight = self.annealed(self.hparams["weight"], 0.0)
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        features = self.featurizer(all_x)
        nll = F.cross_entropy(self.classifier(features), all_y)
        parameters = dict(self.classifier.named_parameters())
        each = vmap(grad(self.sample_loss), in_dims=(None, 0, 0))(parameters, features, all_y)
        each = torch.cat([g.flatten(1) for g in each.values()], 1)
        ema, start, variances = self.hparams["ema"], 0, []
        for d, (x, _) in enumerate(minibatches):
            own = each[start : start + len(x)]
            start += len(x)
            variance = (own - own.mean(0, keepdim=True)).pow(2).mean(0)
            average = ema * self.averages[d] + (1 - ema) * variance
            self.averages[d] = average.detach().clone()
            variances.append(average / (1 - ema))
        mean = torch.stack(variances).mean(0)
        penalty = sum((v - mean).pow(2).mean() for v in variances) / len(variances)
        return self.step(nll + weight * penalty)


class IGA(ERM):
    def update(self, minibatches):
        total_loss, grads = 0.0, []
        for x, y in minibatches:
            env_loss = F.cross_entropy(self.network(x), y)
            total_loss += env_loss
            head = list(self.classifier.parameters())
            grads.append(autograd.grad(env_loss, head, create_graph=True))
        mean_loss = total_loss / len(minibatches)
        mean_grad = autograd.grad(mean_loss, head, retain_graph=True)
        penalty = 0.0
        for env_grads in grads:
            for g, mean_g in zip(env_grads, mean_grad, strict=True):
                penalty += (g - mean_g).pow(2).sum()
        return self.step(mean_loss + self.hparams["weight"] * penalty)


TWINS = {
    "erm": ERM,
    "irm": IRM,
    "vrex": VREx,
    "group_dro": GroupDRO,
    "coral": CORAL,
    "mmd": MMD,
    "mixup": Mixup,
    "sd": SD,
    "fishr": Fishr,
    "iga": IGA,
}
