/** The little of Node.js that tests use; its types are no dependency for that. */

declare module "node:http" {
  export interface IncomingMessage {
    readonly headers: Readonly<Record<string, string | undefined>>;
  }
  interface ServerResponse {
    writeHead(status: number, headers: Record<string, string>): this;
    end(): void;
  }
  interface Server {
    listen(port: number, host: string, listening: () => void): void;
    address(): { readonly port: number };
    close(): void;
  }
  export function createServer(answer: (request: IncomingMessage, response: ServerResponse) => void): Server;
}
