package cookie

// Spend makes the sealing key's sealer seem to have sealed n tokens.
func (c *Codec) Spend(n uint64) { c.current().seals.sealer.Load().count.Store(n) }

// Counted returns the sealing key's count of tokens.
func (c *Codec) Counted() uint64 { return c.current().seals.sealer.Load().count.Load() }

// Subkeys returns how many subkeys are kept.
func (c *Codec) Subkeys() int { return c.cache.size() }

// Openers returns how many keys open.
func (c *Codec) Openers() int { return len(c.current().openers) }
