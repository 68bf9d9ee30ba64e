"""PPO in one file: collect a rollout, then several epochs of minibatches over it; actor and critic share an optimizer."""
import numpy as np
import torch
import torch.nn as nn
from torch.distributions.normal import Normal

num_envs, num_steps, update_epochs, num_minibatches = 8, 16, 2, 4
clip_coef, ent_coef, vf_coef, max_grad_norm, gamma = 0.2, 0.01, 0.5, 0.5, 0.9
num_iterations, learning_rate = 8, 3e-3
torch.manual_seed(1)
np.random.seed(1)


class Envs:
    """Points on a line that are paid for coming home."""

    def __init__(self, n):
        self.position = np.random.uniform(-1, 1, n)

    def observe(self):
        return torch.tensor(np.stack([self.position, self.position ** 2], 1), dtype=torch.float32)

    def step(self, action):
        self.position = np.clip(self.position + 0.2 * np.tanh(action), -1, 1)
        reward = -np.abs(self.position)
        away = np.random.rand(len(self.position)) < 0.05
        self.position[away] = np.random.uniform(-1, 1, away.sum())
        return reward


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor_mean = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 1))

    def get_action_and_value(self, x, action=None):
        mean = self.actor_mean(x)
        probs = Normal(mean, self.actor_logstd.expand_as(mean).exp())
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


envs, agent = Envs(num_envs), Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate, eps=1e-5)
losses, grad_norms, lrs = [], [], []
for iteration in range(1, num_iterations + 1):
    optimizer.param_groups[0]["lr"] = (1.0 - (iteration - 1.0) / num_iterations) * learning_rate
    obs, actions, logprobs, rewards, values = [], [], [], [], []
    for step in range(num_steps):
        with torch.no_grad():
            next_obs = envs.observe()
            action, logprob, _, value = agent.get_action_and_value(next_obs)
        obs.append(next_obs), actions.append(action), logprobs.append(logprob), values.append(value.flatten())
        rewards.append(torch.tensor(envs.step(action.numpy()[:, 0]), dtype=torch.float32))
    with torch.no_grad():
        returns, running = [], agent.critic(envs.observe()).flatten()
        for reward in reversed(rewards):
            running = reward + gamma * running
            returns.insert(0, running)
    b_obs, b_actions, b_logprobs = torch.cat(obs), torch.cat(actions), torch.cat(logprobs)
    b_returns, b_values = torch.cat(returns), torch.cat(values)
    b_advantages = b_returns - b_values

    b_inds = np.arange(num_envs * num_steps)
    for epoch in range(update_epochs):
        np.random.shuffle(b_inds)
        for mb_inds in np.split(b_inds, num_minibatches):
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[mb_inds], b_actions[mb_inds])
            ratio = (newlogprob - b_logprobs[mb_inds]).exp()
            mb_adv = b_advantages[mb_inds]
            mb_adv = (mb_adv - mb_adv.mean()) / (mb_adv.std() + 1e-8)
            pg_loss = torch.max(-mb_adv * ratio, -mb_adv * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)).mean()
            v_loss = 0.5 * ((newvalue.view(-1) - b_returns[mb_inds]) ** 2).mean()
            loss = pg_loss - ent_coef * entropy.mean() + v_loss * vf_coef
            optimizer.zero_grad()
            loss.backward()
            grad_norms.append(nn.utils.clip_grad_norm_(agent.parameters(), max_grad_norm).item())
            optimizer.step()
            losses.append(loss.item())
            lrs.append(optimizer.param_groups[0]["lr"])
    print(f"iteration {iteration}: reward {torch.stack(rewards).mean():.4f} loss {losses[-1]:.4f}")
