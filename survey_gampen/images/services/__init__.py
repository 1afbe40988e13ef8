"""Services that cut out by themselves: asked, waited for, and what they sent taken apart."""
