/* A server of libmodbus. usage: second tcp PORT | rtu PATH UNIT, and the registers on standard input, one a line:
   UNIT TABLE ADDRESS WORD, TABLE h (holding), i (input) or c (coil). There are registers 0 to 999 of each kind. */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

enum { UNITS = 8, REGISTERS = 1000 };

static modbus_mapping_t *units[UNITS];

static int reads_registers(void) {
    unsigned unit, address, word;
    char table;
    while (scanf("%u %c %u %u", &unit, &table, &address, &word) == 4) {
        if (unit >= UNITS || address >= REGISTERS) return -1;
        if (!units[unit]) units[unit] = modbus_mapping_new(REGISTERS, REGISTERS, REGISTERS, REGISTERS);
        if (table == 'h') units[unit]->tab_registers[address] = word;
        if (table == 'i') units[unit]->tab_input_registers[address] = word;
        if (table == 'c') units[unit]->tab_bits[address] = word;
    }
    return 0;
}

/* One question and its answer; -1 when the connection is over. */
static int serves(modbus_t *modbus) {
    uint8_t question[MODBUS_TCP_MAX_ADU_LENGTH];
    int length = modbus_receive(modbus, question);
    if (length <= 0) return length;
    unsigned unit = question[modbus_get_header_length(modbus) - 1];
    if (unit >= UNITS || !units[unit]) return 0;
    return modbus_reply(modbus, question, length, units[unit]);
}

static int serves_port(int port) {
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", port);
    int door = modbus_tcp_listen(modbus, 8);
    if (door < 0) return 1;
    puts("ready"), fflush(stdout);
    fd_set open;
    FD_ZERO(&open);
    FD_SET(door, &open);
    for (;;) {
        fd_set ready = open;
        if (select(FD_SETSIZE, &ready, NULL, NULL, NULL) < 0) return 1;
        for (int fd = 0; fd < FD_SETSIZE; fd++) {
            if (!FD_ISSET(fd, &ready)) continue;
            if (fd == door) {
                int listener = door, client = modbus_tcp_accept(modbus, &listener);
                if (client >= 0) FD_SET(client, &open);
                continue;
            }
            modbus_set_socket(modbus, fd);
            if (serves(modbus) < 0) {
                close(fd);
                FD_CLR(fd, &open);
            }
        }
    }
}

static int serves_line(const char *path, int unit) {
    modbus_t *modbus = modbus_new_rtu(path, 19200, 'N', 8, 1);
    if (modbus_set_slave(modbus, unit) < 0 || modbus_connect(modbus) < 0) return 1;
    puts("ready"), fflush(stdout);
    for (;;) serves(modbus);
}

int main(int count, char **words) {
    if (count < 3 || reads_registers() < 0) return 64;
    return strcmp(words[1], "tcp") == 0 ? serves_port(atoi(words[2])) : serves_line(words[2], atoi(words[3]));
}
