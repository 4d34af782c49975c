// Lists archives as Go's archive/tar reads them: on stdin length (4 bytes, big endian) and archive, again and again; for
// each one line on stdout, a JSON object of entries and of the error that ended the reading, if one did.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
)

type entry struct {
	Name   string   `json:"name"` // names are hexadecimal, as they need not be UTF-8
	Kind   string   `json:"kind"`
	Size   int64    `json:"size"`
	Link   string   `json:"link"`
	Mode   int64    `json:"mode"`
	Major  int64    `json:"major"`
	Minor  int64    `json:"minor"`
	Xattrs []string `json:"xattrs"`
}

type listing struct {
	Entries []entry `json:"entries"`
	Error   string  `json:"error"`
}

func list(archive []byte) listing {
	result := listing{Entries: []entry{}}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return result
		}
		if err != nil {
			result.Error = err.Error()
			return result
		}
		one := entry{
			Name: hex.EncodeToString([]byte(header.Name)), Kind: string(header.Typeflag), Size: header.Size,
			Link: hex.EncodeToString([]byte(header.Linkname)), Mode: header.Mode,
			Major: header.Devmajor, Minor: header.Devminor, Xattrs: []string{},
		}
		for key := range header.PAXRecords {
			if bytes.Contains([]byte(key), []byte(".xattr.")) {
				one.Xattrs = append(one.Xattrs, hex.EncodeToString([]byte(key)))
			}
		}
		result.Entries = append(result.Entries, one)
		if header.Size < 1<<24 { // of a sparse file with holes only the table is read
			if _, err := io.Copy(io.Discard, reader); err != nil {
				result.Error = err.Error()
				return result
			}
		}
	}
}

func main() {
	input, output := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(output)
	for {
		var length uint32
		if binary.Read(input, binary.BigEndian, &length) != nil {
			return
		}
		archive := make([]byte, length)
		if _, err := io.ReadFull(input, archive); err != nil {
			return
		}
		if encoder.Encode(list(archive)) != nil || output.Flush() != nil {
			return
		}
	}
}
