// Package ledger is the record of what was tried and what was refused: streams
// ATTEMPTS and REJECTIONS.
//
// It promises that an attempt whose recording returned without error can be
// read back by its event until its age or the stream's size removes it. Records
// are facts; nothing is ever changed. Nobody's delivery depends on them.
package ledger
