"""Talk over a network: how servers are asked, waited for, and understood when they fail."""
