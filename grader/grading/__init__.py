"""From evidence to a grade: the policy, the verdict in sentences, and the advice."""
