/** Parses modules without running them. Needs `--experimental-vm-modules`. */
import { readFileSync } from 'node:fs';
import { SourceTextModule } from 'node:vm';

for (const identifier of process.argv.slice(2)) new SourceTextModule(readFileSync(identifier, 'utf8'), { identifier });
