/** What `jaxhand export --web` writes into the page, and the files that belong to it. */

import type { CropRule } from "./geometry";

export interface Settings {
  title: string;
  about: string; // version and licence, for the page's foot
  joint_names: string[];
  parents: number[]; // of each joint; -1 for the wrist
  colors: string[]; // of the wrist, then of each finger
  units: string; // for joints.json
  focal: number; // focal length / longer side of a picture whose camera is not known
  own: CropRule | null; // the crops of the run's own network; null: the run is one of MediaPipe's networks
  faces: number[] | null; // triangles of the mesh of a right hand, three indices each
}

export function readSettings(): Settings {
  return JSON.parse(document.getElementById("settings")!.textContent!) as Settings;
}

/** The bytes of a file of the page: embedded in it, or next to it. Both may be compressed by gzip. */
export async function readFile(name: string): Promise<Uint8Array<ArrayBuffer>> {
  const embedded = document.getElementById(name);
  const bytes = embedded ? decodeBase64(embedded.textContent!.trim()) : await download(name);
  embedded?.remove(); // frees its memory
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

async function download(name: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be read (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

function decodeBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
