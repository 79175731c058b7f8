package certs

import (
	"crypto/tls"
	"time"
)

// SetClock makes k live by another clock.
func (k *Keeper) SetClock(now func() time.Time) { k.now = now }

// Current returns the certificate that is in force.
func (k *Keeper) Current() *tls.Certificate { return k.get().cert }
