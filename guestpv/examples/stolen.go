// SPDX-License-Identifier: MIT

// Prints each vCPU's stolen time in nanoseconds: go run stolen.go
//
// What stands where is in kmod/uapi/PAGE.md. Go's atomic loads are ordered among each other.
package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	magic      = 0x0056505453455547
	abiVersion = 1
	online     = 1
	offline    = 2
)

func load32(page []byte, at uint64) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&page[at])))
}

func load64(page []byte, at uint64) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&page[at])))
}

// stolen gives a CPU's count, or says why there is none: "none", or "busy" if the index kept changing.
func stolen(page []byte, cpu uint64) (count uint64, without string) {
	entry := uint64(load32(page, 16)) + cpu*uint64(load32(page, 20))
	for tries := 0; tries < 10000; tries++ {
		sequence := load32(page, 12)
		if sequence&1 != 0 {
			continue
		}
		word := load32(page, entry) // state, origin, fault, reason
		state := *(*byte)(unsafe.Pointer(&word))
		offset := uint64(load32(page, entry+16))
		counts := state == online || state == offline
		var known uint64 // revision and attributes: 0, or the count means something else
		if counts {
			known = load64(page, offset)
			count = load64(page, offset+8)
		}
		if (!counts || load64(page, offset) == known) && load32(page, 12) == sequence {
			if !counts || known != 0 {
				return 0, "none"
			}
			return count, ""
		}
	}
	return 0, "busy"
}

func open(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	mapped := func(size int) ([]byte, error) {
		return syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	}
	first, err := mapped(os.Getpagesize())
	if err != nil {
		return nil, err
	}
	defer syscall.Munmap(first)
	if load64(first, 0) != magic || load32(first, 8) != abiVersion {
		return nil, fmt.Errorf("%s: not a page of guestpv that this program knows", path)
	}
	return mapped(int(load64(first, 32)))
}

func main() {
	path := "/dev/guestpv"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	page, err := open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for cpu := uint64(0); cpu < uint64(load32(page, 24)); cpu++ {
		if count, without := stolen(page, cpu); without == "" {
			fmt.Println(cpu, count)
		} else {
			fmt.Println(cpu, without)
		}
	}
}
