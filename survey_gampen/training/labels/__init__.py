"""Labels for transfer learning: published measurements of galaxies that a catalogue holds too.

A published catalogue has a module of its own, which knows its columns, converts them and drops its
bad rows by named cuts (`simard2011`). The rest serves any of them: `published` reads the columns,
`crossmatch` finds who is who on the sky, `cuts` counts what each cut drops, `output` writes.
"""
