"""What the experiments on exhaustion, time and identity share: children, the kernel's walls, and a ledger."""
