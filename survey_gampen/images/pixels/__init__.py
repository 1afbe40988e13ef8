"""One image: its grid on the sky, its pixels in nJy, and what becomes of a box of them."""
